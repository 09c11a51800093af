"""What the attacks share: arguments, starts, objective and the loop itself."""
