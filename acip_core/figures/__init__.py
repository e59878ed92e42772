"""Everything that becomes a plotly figure or a static page; knows nothing of gradio."""
