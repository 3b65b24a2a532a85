"""How good a map is: accuracy, area estimates, and a report that says so."""
