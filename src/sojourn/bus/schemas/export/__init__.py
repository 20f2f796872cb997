"""What the registry holds, in the words of other tools: AsyncAPI and plain JSON Schema. Pure: data in, data out."""
