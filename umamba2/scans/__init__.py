"""Images and clicks in and out, with their geometry."""
