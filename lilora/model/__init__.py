"""A backbone at work: rows in; tokens, features, logits and answers out."""
