namespace echelon {}
