"""Reports: what a run's folder holds, what its model says, and the page that shows both."""
