"""The command line: its commands, and what they show. Run it as `tritonnotes`, or as `python -m tritonnotes.cli`."""
