/** What every family's config.json says of a small decoder, whose weights are drawn. */
export const tinyConfig = {
  num_hidden_layers: 2,
  hidden_size: 64,
  intermediate_size: 96,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 300,
};
