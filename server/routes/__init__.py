"""One module for each noun of the protocol; `asking.py` reads what all of them are asked."""
