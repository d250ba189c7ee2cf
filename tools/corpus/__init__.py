"""A seeded generator of simple English: children's stories, short essays, poems and chats."""
