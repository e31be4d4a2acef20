"""How far a noisy model's distributions over the next token are from the clean model's."""
