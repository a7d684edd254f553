"""Options of the commands: recipes, the command line, help, and how a program ends."""
