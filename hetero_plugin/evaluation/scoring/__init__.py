"""How answers are judged, and how many tokens they may take, by data source."""
