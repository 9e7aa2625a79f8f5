"""Charts as geometry: where every line and label goes. templates/charts.html.j2 draws them.

A chart is drawn in its own units, close to pixels on a phone, and grows a little on larger screens.
Colours are classes of the style sheet, so that dark mode and paper need no other drawing.
"""
