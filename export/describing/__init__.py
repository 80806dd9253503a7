"""From a tf_keras model to the description of its network, which is all that travels of it.

`model` walks through the calls. A reader for each Keras layer (`fedprune.keras.layers`) and for each operator of plain
arithmetic (`operators`) writes down in a draft what it does, and masks go beside (`masks`). What a description does not
have is refused, with what would work. `parity` compares the model of a description with the original.
"""
