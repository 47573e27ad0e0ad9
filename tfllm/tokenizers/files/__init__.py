"""Whatever makes a tokenizer out of files: a checkpoint's, a preset's, or those that `Tokenizer.save` wrote."""
