"""Claims about size, proved on the real broker: backlogs, old survivors, many queues, large fanouts."""
