"""The same plan on the engines that people already run: one thin adapter per engine. Nothing imports them."""
