"""What a table should look like and what it does look like."""
