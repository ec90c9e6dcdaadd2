import { readFile } from "node:fs/promises";
import { join } from "node:path";
import Type, { type Static } from "typebox";
import Value from "typebox/value";

const PositiveInteger = Type.Integer({ minimum: 1 });

/** The part of a Hugging Face Llama `config.json` that the forward pass needs. */
const LlamaConfigSchema = Type.Object({
  vocab_size: PositiveInteger,
  hidden_size: PositiveInteger,
  intermediate_size: PositiveInteger,
  num_hidden_layers: PositiveInteger,
  num_attention_heads: PositiveInteger,
  num_key_value_heads: PositiveInteger,
  head_dim: PositiveInteger,
  max_position_embeddings: PositiveInteger,
  rms_norm_eps: Type.Number({ exclusiveMinimum: 0 }),
  rope_theta: Type.Number({ exclusiveMinimum: 0 }),
  // The example supports these values only, and refuses other models.
  tie_word_embeddings: Type.Literal(true),
  attention_bias: Type.Literal(false),
  hidden_act: Type.Literal("silu"),
});

export type LlamaConfig = Static<typeof LlamaConfigSchema>;

export async function readConfig(directory: string): Promise<LlamaConfig> {
  const path = join(directory, "config.json");
  const config: unknown = JSON.parse(await readFile(path, "utf8"));
  if (!Value.Check(LlamaConfigSchema, config)) {
    const [first] = Value.Errors(LlamaConfigSchema, config);
    throw new Error(
      `${path}: ${first?.instancePath.slice(1) || "the file"} ${first?.message ?? "is invalid"}`,
    );
  }
  return config;
}
