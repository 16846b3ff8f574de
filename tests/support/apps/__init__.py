"""Applications on other people's frameworks, and what it takes to run them as processes of their own."""
