"""Text: records of CSV and JSONL files, and the tokenisers that turn text into ids."""
