"""How the book is built: chapters executed where something changed, then rendered."""
