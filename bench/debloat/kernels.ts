/**
 * Kernels that replace a profile where there is no GPU: those that a transformer calls in f32 and
 * bf16, forwards and backwards, by families of mangled names. Families are wider than what one run
 * calls (a traced run of such a model looks up some 60 kernels): every head dim of 64 and 128,
 * every row length of softmax, every tile of the plain matrix products.
 */
const element = "(f|N3c108BFloat16E)";

const families: Readonly<Record<string, string>> = {
  // PyTorch's own.
  fill: `vectorized_elementwise_kernelILi[48]ENS0_11FillFunctorI${element}E`,
  add: `vectorized_elementwise_kernelILi[48]ENS0_15CUDAFunctor_addI${element}E`,
  multiply: `vectorized_elementwise_kernelILi[48]ENS0_1\\d[AB]\\w*FunctorI${element}.*MulFunctor`,
  gelu: "vectorized_elementwise_kernelILi[48]EZZZNS0_\\d+Gelu(Backward)?CUDAKernelImpl",
  copy:
    "(bfloat16_copy_kernel_cuda|(vectorized|unrolled)_elementwise.*23direct_copy_kernel_cuda.*" +
    "(UlfE|UlN3c108BFloat16E)E_)",
  layerNorm: `(vectorized_layer_norm_kernel|layer_norm_grad_input_kernel(_vectorized)?)I${element}`,
  layerNormWeights: `GammaBetaBackward\\w*I${element}`,
  softmax: `softmax_warp_(forward|backward)I${element}.*Li(5|6|7|8|9|10)EL`,
  softmaxLong: `cunn_SoftMax(Forward|Backward)\\w*ILi\\d+E${element}`,
  loss: `nll_loss_(forward|backward)_reduce_cuda_kernel_2dI${element}.*l`,
  embedding:
    `(embedding_backward_feature_kernelI|indexSelect(Small|Large)IndexI)${element}|` +
    "vectorized_gather_kernel",
  adam: "FusedAdamMathFunctorIfLi4ELNS0_9ADAM_MODEE1",
  sums:
    `reduce_kernelILi(128|512)ELi[14]ENS0_8ReduceOpI${element}` +
    "NS0_(14func_wrapper_tIfZ\\w*11sum_functor|7MeanOps)",
  dropout: `fused_dropout_kernel_vecI${element}`,
  attention: "flash_fwd_kernelI23Flash_fwd_kernel_traitsILi(64|128)E\\w*10bfloat16_t",
  attentionBackward:
    "flash_bwd_\\w*kernel\\w*23Flash_bwd_kernel_traitsILi(64|128)E\\w*10bfloat16_t",
  attentionAnyShape: "fmha_cutlass[FB]_(bf16|f32)_aligned_64x64",
  // cuBLAS.
  products:
    "^sm90_xmma_gemm_(bf16bf16_bf16f32|f32f32_tf32f32)_f32_(nn|nt|tn)_n_" +
    "tilesize\\w*x(32|64)_warpgroupsize[12]x1x1_(bias_)?execute",
  productsSplit: "splitKreduce_kernelILi32ELi16Ei(f|13__nv_bfloat16)",
  productsOfVectors: "gemvx6kernelIii(13__nv_bfloat16|f)",
  // cuDNN: one convolution each way.
  convolution:
    "^sm90_xmma_(fprop|dgrad|wgrad)_implicit_gemm_" +
    "bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_",
  layouts: "(nchwToNhwc|nhwcToNchw)KernelI(f|13__nv_bfloat16)(f|13__nv_bfloat16)",
};

/** One expression for `--keep`. */
export const transformerKernels = new RegExp(Object.values(families).join("|"));
