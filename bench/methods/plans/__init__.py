"""The methods that are plans, each registered where it stands; a new one is one more module."""
