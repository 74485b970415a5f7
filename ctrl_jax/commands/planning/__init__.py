"""What an update needs of devices that need not be there."""
