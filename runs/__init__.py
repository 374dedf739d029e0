"""The folder of a run: its files, its pictures, and what can be made from its networks."""
