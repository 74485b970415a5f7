"""One module per performance claim, on one harness: ratios against peers measured in one run."""
