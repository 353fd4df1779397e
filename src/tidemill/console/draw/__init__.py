"""Small pictures as inline SVG: sharp, themed by the stylesheet, and no script needed."""
