"""After the case: 好差评 (evaluations), the call-backs that bad ones open, and complaints, each with its own deadline. docs/feedback.md."""
