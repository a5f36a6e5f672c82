"""What tests/run.py is made of. Standard library only."""
