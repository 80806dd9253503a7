"""From a tf_keras model to the description of its network, which is all that travels of it.

A reader for each Keras layer (`layers`) and for each operator of plain arithmetic (`operators`) writes down in a
`draft` what the layer does; `model` walks through the calls. What a description does not have is refused, with what
would work (`refusal`).
"""
