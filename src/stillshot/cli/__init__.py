"""The command line: one module a verb. Importing it loads no model library."""
