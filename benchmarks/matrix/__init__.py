"""Every way to export a run's model, each measured, with one recommended: `fedprune matrix RUN`.

==========  ===========================================================================
candidates  a file with its accuracy, size and latency; which are worth having; which one
build       exports, measures, and joins what came of both
card        the model card: what the model is, in JSON and Markdown
picture     accuracy against latency and size
command     how a person asks for it
==========  ===========================================================================
"""
