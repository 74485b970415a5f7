"""What the fine-tuning experiments share: tasks, evaluation, comparison and plots."""
