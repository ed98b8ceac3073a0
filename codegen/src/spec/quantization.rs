//! Which ways of storing weights a configuration may name. The tensors' own types decide how they are read; here, what no
//! loader reads is refused before any file is opened.

use super::SpecError;
use super::fields::Fields;

const FIELD: &str = "quantization_config";
const METHODS: &str = "\"mxfp4\", \"compressed-tensors\" or \"fp8\" with 8-bit floats, \"bitsandbytes\" with nf4, \"quark\" with \
                       MXFP4 weights, or no such field for bf16, fp16 or fp32; publish or download the checkpoint in one of these";

pub(super) fn check(config: Fields<'_>) -> Result<(), SpecError> {
    let Some(fields) = config.object(FIELD, "quantization_config.")? else { return Ok(()) };
    match fields.required::<&str>("quant_method", METHODS)? {
        "mxfp4" | "fp8" | "quark" => Ok(()),
        "compressed-tensors" => {
            const FORMATS: &str =
                "\"float-quantized\", \"naive-quantized\" or \"dense\"; compress with 8-bit floats";
            match fields.optional::<&str>("format", FORMATS)? {
                None | Some("float-quantized" | "naive-quantized" | "dense") => Ok(()),
                Some(_) => Err(fields.unsupported("format", FORMATS)),
            }
        }
        "bitsandbytes" => {
            if fields.optional::<bool>("load_in_8bit", "true or false")? == Some(true) {
                return Err(fields.unsupported("load_in_8bit", "4 bits in nf4, or bf16"));
            }
            match fields.optional::<&str>("bnb_4bit_quant_type", "\"nf4\"")? {
                None | Some("nf4") => Ok(()),
                Some(_) => {
                    Err(fields.unsupported("bnb_4bit_quant_type", "only \"nf4\"; save it in bf16"))
                }
            }
        }
        _ => Err(fields.unsupported("quant_method", METHODS)),
    }
}
