"""What notebooks and posts show: figures drawn by code, and text."""
