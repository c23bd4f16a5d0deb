"""The recipe's charts, tables, price tags and signs as other programs draw them, so that none is learnt by its looks.

Each program draws with what it varies itself: styles, fonts, grids, orders, sizes. Whole programs are held out for the
test (``programs.make``): a model that reads only what it has seen drawn is caught by them.
"""
