"""Other people's files: how they are read, what their keys may be, and what HuggingFace and torchvision call things."""
