"""From profits and losses to statistics, and from statistics to figures."""
