"""What the README claims about speed and search quality, each one command."""
