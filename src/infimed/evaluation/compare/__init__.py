"""Several models side by side: one page that opens from disk, a CSV and a LaTeX table."""
