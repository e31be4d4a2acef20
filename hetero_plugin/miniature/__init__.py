"""A small Qwen2 with its tokenizer and its task: what `doctor`, tests and the recipes train."""
