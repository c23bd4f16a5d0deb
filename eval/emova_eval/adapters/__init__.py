"""The model in the form that other evaluation toolkits ask for; they are imported only by those who have them."""
