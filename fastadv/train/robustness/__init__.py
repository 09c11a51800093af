"""How many images of a test split a network still classifies under attack: `fastadv attack`."""
