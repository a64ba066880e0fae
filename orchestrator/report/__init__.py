"""What a sweep found: tables beside published numbers, figures, one page, and two sweeps compared.

report = collect(plan, record)      everything is computed from the record, nothing else
all_tables(report)                  for terminal, Markdown and LaTeX
page(report)                        one HTML file
compare(report, other)              two sweeps, study by study
"""
