"""What a student is turned into to be used: exports, a server, a playground."""
