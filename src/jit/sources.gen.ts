// Written by `bun run sources`: do not edit.
/// <reference path="./text.d.ts" />
import argmax_argmax_cu from "../../kernels/argmax/argmax.cu" with { type: "text" };
import attention_common_again_h from "../../kernels/attention/common/again.h" with { type: "text" };
import attention_common_arrive_h from "../../kernels/attention/common/arrive.h" with { type: "text" };
import attention_common_facts_h from "../../kernels/attention/common/facts.h" with { type: "text" };
import attention_common_finish_h from "../../kernels/attention/common/finish.h" with { type: "text" };
import attention_common_locate_h from "../../kernels/attention/common/locate.h" with { type: "text" };
import attention_common_records_h from "../../kernels/attention/common/records.h" with { type: "text" };
import attention_common_rotate_h from "../../kernels/attention/common/rotate.h" with { type: "text" };
import attention_common_rows_h from "../../kernels/attention/common/rows.h" with { type: "text" };
import attention_common_scores_h from "../../kernels/attention/common/scores.h" with { type: "text" };
import attention_contents_cu from "../../kernels/attention/contents.cu" with { type: "text" };
import attention_hooks_h from "../../kernels/attention/hooks.h" with { type: "text" };
import attention_hopper_change_h from "../../kernels/attention/hopper/change.h" with { type: "text" };
import attention_hopper_compute_h from "../../kernels/attention/hopper/compute.h" with { type: "text" };
import attention_hopper_copy_h from "../../kernels/attention/hopper/copy.h" with { type: "text" };
import attention_hopper_facts_h from "../../kernels/attention/hopper/facts.h" with { type: "text" };
import attention_hopper_join_h from "../../kernels/attention/hopper/join.h" with { type: "text" };
import attention_hopper_kernel_h from "../../kernels/attention/hopper/kernel.h" with { type: "text" };
import attention_hopper_load_h from "../../kernels/attention/hopper/load.h" with { type: "text" };
import attention_hopper_pairs_h from "../../kernels/attention/hopper/pairs.h" with { type: "text" };
import attention_hopper_prefill_cu from "../../kernels/attention/hopper/prefill.cu" with { type: "text" };
import attention_hopper_score_h from "../../kernels/attention/hopper/score.h" with { type: "text" };
import attention_hopper_scoring_h from "../../kernels/attention/hopper/scoring.h" with { type: "text" };
import attention_hopper_softmax_h from "../../kernels/attention/hopper/softmax.h" with { type: "text" };
import attention_hopper_store_h from "../../kernels/attention/hopper/store.h" with { type: "text" };
import attention_hopper_sums_h from "../../kernels/attention/hopper/sums.h" with { type: "text" };
import attention_hopper_take_h from "../../kernels/attention/hopper/take.h" with { type: "text" };
import attention_hopper_tasks_h from "../../kernels/attention/hopper/tasks.h" with { type: "text" };
import attention_hopper_values_h from "../../kernels/attention/hopper/values.h" with { type: "text" };
import attention_hopper_wide_cu from "../../kernels/attention/hopper/wide.cu" with { type: "text" };
import attention_merge_cu from "../../kernels/attention/merge.cu" with { type: "text" };
import attention_merge_h from "../../kernels/attention/merge.h" with { type: "text" };
import attention_mla_bytes_cu from "../../kernels/attention/mla/bytes.cu" with { type: "text" };
import attention_mla_bytes_h from "../../kernels/attention/mla/bytes.h" with { type: "text" };
import attention_mla_columns_h from "../../kernels/attention/mla/columns.h" with { type: "text" };
import attention_mla_decode_cu from "../../kernels/attention/mla/decode.cu" with { type: "text" };
import attention_mla_facts_h from "../../kernels/attention/mla/facts.h" with { type: "text" };
import attention_mla_kernel_h from "../../kernels/attention/mla/kernel.h" with { type: "text" };
import attention_mla_load_h from "../../kernels/attention/mla/load.h" with { type: "text" };
import attention_mla_memory_h from "../../kernels/attention/mla/memory.h" with { type: "text" };
import attention_mla_products_h from "../../kernels/attention/mla/products.h" with { type: "text" };
import attention_mla_rows_h from "../../kernels/attention/mla/rows.h" with { type: "text" };
import attention_mla_score_h from "../../kernels/attention/mla/score.h" with { type: "text" };
import attention_mla_share_h from "../../kernels/attention/mla/share.h" with { type: "text" };
import attention_mla_sums_h from "../../kernels/attention/mla/sums.h" with { type: "text" };
import attention_mla_turned_cu from "../../kernels/attention/mla/turned.cu" with { type: "text" };
import attention_mla_turned_h from "../../kernels/attention/mla/turned.h" with { type: "text" };
import attention_mla_values_h from "../../kernels/attention/mla/values.h" with { type: "text" };
import attention_mla_wide_h from "../../kernels/attention/mla/wide.h" with { type: "text" };
import attention_project_h from "../../kernels/attention/project.h" with { type: "text" };
import attention_row_h from "../../kernels/attention/row.h" with { type: "text" };
import attention_tiled_block_h from "../../kernels/attention/tiled/block.h" with { type: "text" };
import attention_tiled_copy_h from "../../kernels/attention/tiled/copy.h" with { type: "text" };
import attention_tiled_decode_cu from "../../kernels/attention/tiled/decode.cu" with { type: "text" };
import attention_tiled_facts_h from "../../kernels/attention/tiled/facts.h" with { type: "text" };
import attention_tiled_memory_h from "../../kernels/attention/tiled/memory.h" with { type: "text" };
import attention_tiled_pieces_h from "../../kernels/attention/tiled/pieces.h" with { type: "text" };
import attention_tiled_prefill_cu from "../../kernels/attention/tiled/prefill.cu" with { type: "text" };
import attention_tiled_products_h from "../../kernels/attention/tiled/products.h" with { type: "text" };
import attention_tiled_project_h from "../../kernels/attention/tiled/project.h" with { type: "text" };
import attention_tiled_warps_h from "../../kernels/attention/tiled/warps.h" with { type: "text" };
import attention_variant_h from "../../kernels/attention/variant.h" with { type: "text" };
import bits_bits_cu from "../../kernels/bits/bits.cu" with { type: "text" };
import common_activate_h from "../../kernels/common/activate.h" with { type: "text" };
import common_angles_h from "../../kernels/common/angles.h" with { type: "text" };
import common_chunk_h from "../../kernels/common/chunk.h" with { type: "text" };
import common_element_h from "../../kernels/common/element.h" with { type: "text" };
import common_even_h from "../../kernels/common/even.h" with { type: "text" };
import common_operator_h from "../../kernels/common/operator.h" with { type: "text" };
import common_philox_h from "../../kernels/common/philox.h" with { type: "text" };
import common_rows_h from "../../kernels/common/rows.h" with { type: "text" };
import gather_gather_cu from "../../kernels/gather/gather.cu" with { type: "text" };
import map_map_cu from "../../kernels/map/map.cu" with { type: "text" };
import matmul_any_cu from "../../kernels/matmul/any.cu" with { type: "text" };
import matmul_coded_cu from "../../kernels/matmul/coded.cu" with { type: "text" };
import matmul_codes_h from "../../kernels/matmul/codes.h" with { type: "text" };
import matmul_few_cu from "../../kernels/matmul/few.cu" with { type: "text" };
import matmul_flat_cu from "../../kernels/matmul/flat.cu" with { type: "text" };
import matmul_flat_h from "../../kernels/matmul/flat.h" with { type: "text" };
import matmul_gather_h from "../../kernels/matmul/gather.h" with { type: "text" };
import matmul_gathered_cu from "../../kernels/matmul/gathered.cu" with { type: "text" };
import matmul_item_h from "../../kernels/matmul/item.h" with { type: "text" };
import matmul_load_h from "../../kernels/matmul/load.h" with { type: "text" };
import matmul_multiply_h from "../../kernels/matmul/multiply.h" with { type: "text" };
import matmul_plain_h from "../../kernels/matmul/plain.h" with { type: "text" };
import matmul_ring_h from "../../kernels/matmul/ring.h" with { type: "text" };
import matmul_scales_h from "../../kernels/matmul/scales.h" with { type: "text" };
import matmul_slices_h from "../../kernels/matmul/slices.h" with { type: "text" };
import matmul_thin_cu from "../../kernels/matmul/thin.cu" with { type: "text" };
import matmul_thin_h from "../../kernels/matmul/thin.h" with { type: "text" };
import matmul_thin_products_h from "../../kernels/matmul/thin_products.h" with { type: "text" };
import matmul_tile_cu from "../../kernels/matmul/tile.cu" with { type: "text" };
import matmul_weight_h from "../../kernels/matmul/weight.h" with { type: "text" };
import matmul_wide_cu from "../../kernels/matmul/wide.cu" with { type: "text" };
import moe_combine_cu from "../../kernels/moe/combine.cu" with { type: "text" };
import moe_route_cu from "../../kernels/moe/route.cu" with { type: "text" };
import norm_norm_cu from "../../kernels/norm/norm.cu" with { type: "text" };
import page_append_h from "../../kernels/page/append.h" with { type: "text" };
import page_page_cu from "../../kernels/page/page.cu" with { type: "text" };
import params_argmax_h from "../../kernels/params/argmax.h" with { type: "text" };
import params_attention_h from "../../kernels/params/attention.h" with { type: "text" };
import params_bits_h from "../../kernels/params/bits.h" with { type: "text" };
import params_contents_h from "../../kernels/params/contents.h" with { type: "text" };
import params_device_h from "../../kernels/params/device.h" with { type: "text" };
import params_gather_h from "../../kernels/params/gather.h" with { type: "text" };
import params_map_h from "../../kernels/params/map.h" with { type: "text" };
import params_matmul_h from "../../kernels/params/matmul.h" with { type: "text" };
import params_moe_h from "../../kernels/params/moe.h" with { type: "text" };
import params_norm_h from "../../kernels/params/norm.h" with { type: "text" };
import params_page_h from "../../kernels/params/page.h" with { type: "text" };
import params_plane_h from "../../kernels/params/plane.h" with { type: "text" };
import params_probe_h from "../../kernels/params/probe.h" with { type: "text" };
import params_quantize_h from "../../kernels/params/quantize.h" with { type: "text" };
import params_rope_h from "../../kernels/params/rope.h" with { type: "text" };
import params_rows_h from "../../kernels/params/rows.h" with { type: "text" };
import params_sampling_h from "../../kernels/params/sampling.h" with { type: "text" };
import params_states_h from "../../kernels/params/states.h" with { type: "text" };
import params_tensor_h from "../../kernels/params/tensor.h" with { type: "text" };
import params_tensor_map_h from "../../kernels/params/tensor_map.h" with { type: "text" };
import params_types_h from "../../kernels/params/types.h" with { type: "text" };
import params_variant_h from "../../kernels/params/variant.h" with { type: "text" };
import params_variant_probe_h from "../../kernels/params/variant_probe.h" with { type: "text" };
import probe_probe_cu from "../../kernels/probe/probe.cu" with { type: "text" };
import ptx_barrier_h from "../../kernels/ptx/barrier.h" with { type: "text" };
import ptx_base_h from "../../kernels/ptx/base.h" with { type: "text" };
import ptx_cluster_h from "../../kernels/ptx/cluster.h" with { type: "text" };
import ptx_convert_h from "../../kernels/ptx/convert.h" with { type: "text" };
import ptx_cp_async_h from "../../kernels/ptx/cp_async.h" with { type: "text" };
import ptx_fence_h from "../../kernels/ptx/fence.h" with { type: "text" };
import ptx_ldmatrix_h from "../../kernels/ptx/ldmatrix.h" with { type: "text" };
import ptx_math_h from "../../kernels/ptx/math.h" with { type: "text" };
import ptx_mbarrier_h from "../../kernels/ptx/mbarrier.h" with { type: "text" };
import ptx_memory_h from "../../kernels/ptx/memory.h" with { type: "text" };
import ptx_mma_h from "../../kernels/ptx/mma.h" with { type: "text" };
import ptx_pair_h from "../../kernels/ptx/pair.h" with { type: "text" };
import ptx_pdl_h from "../../kernels/ptx/pdl.h" with { type: "text" };
import ptx_relaxed_h from "../../kernels/ptx/relaxed.h" with { type: "text" };
import ptx_special_h from "../../kernels/ptx/special.h" with { type: "text" };
import ptx_stmatrix_h from "../../kernels/ptx/stmatrix.h" with { type: "text" };
import ptx_tma_h from "../../kernels/ptx/tma.h" with { type: "text" };
import ptx_wgmma_h from "../../kernels/ptx/wgmma.h" with { type: "text" };
import quantize_quantize_cu from "../../kernels/quantize/quantize.cu" with { type: "text" };
import rope_rope_cu from "../../kernels/rope/rope.cu" with { type: "text" };
import rope_unit_h from "../../kernels/rope/unit.h" with { type: "text" };
import sampling_adjust_cu from "../../kernels/sampling/adjust.cu" with { type: "text" };
import sampling_drafts_cu from "../../kernels/sampling/drafts.cu" with { type: "text" };
import sampling_few_h from "../../kernels/sampling/few.h" with { type: "text" };
import sampling_held_h from "../../kernels/sampling/held.h" with { type: "text" };
import sampling_light_h from "../../kernels/sampling/light.h" with { type: "text" };
import sampling_listed_h from "../../kernels/sampling/listed.h" with { type: "text" };
import sampling_place_cu from "../../kernels/sampling/place.cu" with { type: "text" };
import sampling_race_h from "../../kernels/sampling/race.h" with { type: "text" };
import sampling_row_h from "../../kernels/sampling/row.h" with { type: "text" };
import sampling_sample_cu from "../../kernels/sampling/sample.cu" with { type: "text" };
import sampling_sample_h from "../../kernels/sampling/sample.h" with { type: "text" };
import sampling_sample_cluster_cu from "../../kernels/sampling/sample_cluster.cu" with { type: "text" };
import sampling_sample_few_cluster_cu from "../../kernels/sampling/sample_few_cluster.cu" with { type: "text" };
import sampling_sample_plain_cluster_cu from "../../kernels/sampling/sample_plain_cluster.cu" with { type: "text" };
import sampling_sample_softmax_cluster_cu from "../../kernels/sampling/sample_softmax_cluster.cu" with { type: "text" };
import sampling_select_h from "../../kernels/sampling/select.h" with { type: "text" };
import sampling_streamed_h from "../../kernels/sampling/streamed.h" with { type: "text" };
import sampling_team_h from "../../kernels/sampling/team.h" with { type: "text" };
import sampling_top_k_cu from "../../kernels/sampling/top_k.cu" with { type: "text" };
import sampling_top_k_h from "../../kernels/sampling/top_k.h" with { type: "text" };
import sampling_top_k_cluster_cu from "../../kernels/sampling/top_k_cluster.cu" with { type: "text" };
import sampling_walk_h from "../../kernels/sampling/walk.h" with { type: "text" };
import states_states_cu from "../../kernels/states/states.cu" with { type: "text" };
import tensor_tensor_cu from "../../kernels/tensor/tensor.cu" with { type: "text" };

/** Text of every kernel source and header, by its path below kernels/. */
export const sources: Readonly<Record<string, string>> = {
  "argmax/argmax.cu": argmax_argmax_cu,
  "attention/common/again.h": attention_common_again_h,
  "attention/common/arrive.h": attention_common_arrive_h,
  "attention/common/facts.h": attention_common_facts_h,
  "attention/common/finish.h": attention_common_finish_h,
  "attention/common/locate.h": attention_common_locate_h,
  "attention/common/records.h": attention_common_records_h,
  "attention/common/rotate.h": attention_common_rotate_h,
  "attention/common/rows.h": attention_common_rows_h,
  "attention/common/scores.h": attention_common_scores_h,
  "attention/contents.cu": attention_contents_cu,
  "attention/hooks.h": attention_hooks_h,
  "attention/hopper/change.h": attention_hopper_change_h,
  "attention/hopper/compute.h": attention_hopper_compute_h,
  "attention/hopper/copy.h": attention_hopper_copy_h,
  "attention/hopper/facts.h": attention_hopper_facts_h,
  "attention/hopper/join.h": attention_hopper_join_h,
  "attention/hopper/kernel.h": attention_hopper_kernel_h,
  "attention/hopper/load.h": attention_hopper_load_h,
  "attention/hopper/pairs.h": attention_hopper_pairs_h,
  "attention/hopper/prefill.cu": attention_hopper_prefill_cu,
  "attention/hopper/score.h": attention_hopper_score_h,
  "attention/hopper/scoring.h": attention_hopper_scoring_h,
  "attention/hopper/softmax.h": attention_hopper_softmax_h,
  "attention/hopper/store.h": attention_hopper_store_h,
  "attention/hopper/sums.h": attention_hopper_sums_h,
  "attention/hopper/take.h": attention_hopper_take_h,
  "attention/hopper/tasks.h": attention_hopper_tasks_h,
  "attention/hopper/values.h": attention_hopper_values_h,
  "attention/hopper/wide.cu": attention_hopper_wide_cu,
  "attention/merge.cu": attention_merge_cu,
  "attention/merge.h": attention_merge_h,
  "attention/mla/bytes.cu": attention_mla_bytes_cu,
  "attention/mla/bytes.h": attention_mla_bytes_h,
  "attention/mla/columns.h": attention_mla_columns_h,
  "attention/mla/decode.cu": attention_mla_decode_cu,
  "attention/mla/facts.h": attention_mla_facts_h,
  "attention/mla/kernel.h": attention_mla_kernel_h,
  "attention/mla/load.h": attention_mla_load_h,
  "attention/mla/memory.h": attention_mla_memory_h,
  "attention/mla/products.h": attention_mla_products_h,
  "attention/mla/rows.h": attention_mla_rows_h,
  "attention/mla/score.h": attention_mla_score_h,
  "attention/mla/share.h": attention_mla_share_h,
  "attention/mla/sums.h": attention_mla_sums_h,
  "attention/mla/turned.cu": attention_mla_turned_cu,
  "attention/mla/turned.h": attention_mla_turned_h,
  "attention/mla/values.h": attention_mla_values_h,
  "attention/mla/wide.h": attention_mla_wide_h,
  "attention/project.h": attention_project_h,
  "attention/row.h": attention_row_h,
  "attention/tiled/block.h": attention_tiled_block_h,
  "attention/tiled/copy.h": attention_tiled_copy_h,
  "attention/tiled/decode.cu": attention_tiled_decode_cu,
  "attention/tiled/facts.h": attention_tiled_facts_h,
  "attention/tiled/memory.h": attention_tiled_memory_h,
  "attention/tiled/pieces.h": attention_tiled_pieces_h,
  "attention/tiled/prefill.cu": attention_tiled_prefill_cu,
  "attention/tiled/products.h": attention_tiled_products_h,
  "attention/tiled/project.h": attention_tiled_project_h,
  "attention/tiled/warps.h": attention_tiled_warps_h,
  "attention/variant.h": attention_variant_h,
  "bits/bits.cu": bits_bits_cu,
  "common/activate.h": common_activate_h,
  "common/angles.h": common_angles_h,
  "common/chunk.h": common_chunk_h,
  "common/element.h": common_element_h,
  "common/even.h": common_even_h,
  "common/operator.h": common_operator_h,
  "common/philox.h": common_philox_h,
  "common/rows.h": common_rows_h,
  "gather/gather.cu": gather_gather_cu,
  "map/map.cu": map_map_cu,
  "matmul/any.cu": matmul_any_cu,
  "matmul/coded.cu": matmul_coded_cu,
  "matmul/codes.h": matmul_codes_h,
  "matmul/few.cu": matmul_few_cu,
  "matmul/flat.cu": matmul_flat_cu,
  "matmul/flat.h": matmul_flat_h,
  "matmul/gather.h": matmul_gather_h,
  "matmul/gathered.cu": matmul_gathered_cu,
  "matmul/item.h": matmul_item_h,
  "matmul/load.h": matmul_load_h,
  "matmul/multiply.h": matmul_multiply_h,
  "matmul/plain.h": matmul_plain_h,
  "matmul/ring.h": matmul_ring_h,
  "matmul/scales.h": matmul_scales_h,
  "matmul/slices.h": matmul_slices_h,
  "matmul/thin.cu": matmul_thin_cu,
  "matmul/thin.h": matmul_thin_h,
  "matmul/thin_products.h": matmul_thin_products_h,
  "matmul/tile.cu": matmul_tile_cu,
  "matmul/weight.h": matmul_weight_h,
  "matmul/wide.cu": matmul_wide_cu,
  "moe/combine.cu": moe_combine_cu,
  "moe/route.cu": moe_route_cu,
  "norm/norm.cu": norm_norm_cu,
  "page/append.h": page_append_h,
  "page/page.cu": page_page_cu,
  "params/argmax.h": params_argmax_h,
  "params/attention.h": params_attention_h,
  "params/bits.h": params_bits_h,
  "params/contents.h": params_contents_h,
  "params/device.h": params_device_h,
  "params/gather.h": params_gather_h,
  "params/map.h": params_map_h,
  "params/matmul.h": params_matmul_h,
  "params/moe.h": params_moe_h,
  "params/norm.h": params_norm_h,
  "params/page.h": params_page_h,
  "params/plane.h": params_plane_h,
  "params/probe.h": params_probe_h,
  "params/quantize.h": params_quantize_h,
  "params/rope.h": params_rope_h,
  "params/rows.h": params_rows_h,
  "params/sampling.h": params_sampling_h,
  "params/states.h": params_states_h,
  "params/tensor.h": params_tensor_h,
  "params/tensor_map.h": params_tensor_map_h,
  "params/types.h": params_types_h,
  "params/variant.h": params_variant_h,
  "params/variant_probe.h": params_variant_probe_h,
  "probe/probe.cu": probe_probe_cu,
  "ptx/barrier.h": ptx_barrier_h,
  "ptx/base.h": ptx_base_h,
  "ptx/cluster.h": ptx_cluster_h,
  "ptx/convert.h": ptx_convert_h,
  "ptx/cp_async.h": ptx_cp_async_h,
  "ptx/fence.h": ptx_fence_h,
  "ptx/ldmatrix.h": ptx_ldmatrix_h,
  "ptx/math.h": ptx_math_h,
  "ptx/mbarrier.h": ptx_mbarrier_h,
  "ptx/memory.h": ptx_memory_h,
  "ptx/mma.h": ptx_mma_h,
  "ptx/pair.h": ptx_pair_h,
  "ptx/pdl.h": ptx_pdl_h,
  "ptx/relaxed.h": ptx_relaxed_h,
  "ptx/special.h": ptx_special_h,
  "ptx/stmatrix.h": ptx_stmatrix_h,
  "ptx/tma.h": ptx_tma_h,
  "ptx/wgmma.h": ptx_wgmma_h,
  "quantize/quantize.cu": quantize_quantize_cu,
  "rope/rope.cu": rope_rope_cu,
  "rope/unit.h": rope_unit_h,
  "sampling/adjust.cu": sampling_adjust_cu,
  "sampling/drafts.cu": sampling_drafts_cu,
  "sampling/few.h": sampling_few_h,
  "sampling/held.h": sampling_held_h,
  "sampling/light.h": sampling_light_h,
  "sampling/listed.h": sampling_listed_h,
  "sampling/place.cu": sampling_place_cu,
  "sampling/race.h": sampling_race_h,
  "sampling/row.h": sampling_row_h,
  "sampling/sample.cu": sampling_sample_cu,
  "sampling/sample.h": sampling_sample_h,
  "sampling/sample_cluster.cu": sampling_sample_cluster_cu,
  "sampling/sample_few_cluster.cu": sampling_sample_few_cluster_cu,
  "sampling/sample_plain_cluster.cu": sampling_sample_plain_cluster_cu,
  "sampling/sample_softmax_cluster.cu": sampling_sample_softmax_cluster_cu,
  "sampling/select.h": sampling_select_h,
  "sampling/streamed.h": sampling_streamed_h,
  "sampling/team.h": sampling_team_h,
  "sampling/top_k.cu": sampling_top_k_cu,
  "sampling/top_k.h": sampling_top_k_h,
  "sampling/top_k_cluster.cu": sampling_top_k_cluster_cu,
  "sampling/walk.h": sampling_walk_h,
  "states/states.cu": states_states_cu,
  "tensor/tensor.cu": tensor_tensor_cu,
};
