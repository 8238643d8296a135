export const ofCudaAlone: string[];
export const onEachDevice: string[];
export const ofNativeCode: string[];
export function fileOf(suite: string): string;
