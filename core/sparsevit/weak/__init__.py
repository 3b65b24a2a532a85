"""From tags to pseudomasks: evidence, clusters, names, edges, confidence."""
