"""`fedprune init`: the files of a federation, written for a person's own model and data.

`model_look` and `data_look` say what is there, `describing` what becomes of the data, `plan` how it is learned, and
`files` what stands in the files. What cannot be known is asked, through `questions`.
"""
