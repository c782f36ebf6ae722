"""Running a grid: in this process or over Ray. The only place that imports ray."""
