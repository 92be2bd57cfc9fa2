"""Published weights to stage folders and back: Baichuan-Audio, Whisper, Hugging Face language models, HiFT."""
