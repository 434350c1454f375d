"""Thin, lazy faces for other libraries; no mathematics lives here."""
